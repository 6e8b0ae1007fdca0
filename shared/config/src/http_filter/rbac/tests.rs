//! RBAC: policies, conditions and matchers.

use proto::Any;
use proto::google::api::expr::v1alpha1::{Constant, Expr, constant, expr};
use proto::xds::core::v3::TypedExtensionConfig;
use proto::xds::r#type::matcher::v3 as xds;
use proto::xds::r#type::v3::CelExpression;

use super::*;

fn problems(read: impl FnOnce(&mut Problems)) -> String {
    let mut p = Problems::default();
    read(&mut p);
    p.finish(Some(())).err().map(|invalid| invalid.to_string()).unwrap_or_default()
}

fn ident(name: &str) -> Expr {
    Expr { expr_kind: Some(expr::ExprKind::IdentExpr(expr::Ident { name: name.into() })), ..Default::default() }
}

fn text(value: &str) -> Expr {
    let constant = Constant { constant_kind: Some(constant::ConstantKind::StringValue(value.into())) };
    Expr { expr_kind: Some(expr::ExprKind::ConstExpr(constant)), ..Default::default() }
}

fn select(operand: Expr, field: &str, test_only: bool) -> Expr {
    let select = expr::Select { operand: Some(Box::new(operand)), field: field.into(), test_only };
    Expr { expr_kind: Some(expr::ExprKind::SelectExpr(Box::new(select))), ..Default::default() }
}

fn call(target: Option<Expr>, function: &str, args: Vec<Expr>) -> Expr {
    let call = expr::Call { target: target.map(Box::new), function: function.into(), args };
    Expr { expr_kind: Some(expr::ExprKind::CallExpr(Box::new(call))), ..Default::default() }
}

/// The text that a syntax tree is written as, or why it is refused.
fn check_tree(expr: Expr, expected: &str) {
    let mut p = Problems::default();
    let cel = cel::decode(&expr, &mut p);
    let result = match p.finish(cel) {
        Ok(cel) => cel.as_str().to_owned(),
        Err(invalid) => invalid.to_string(),
    };
    assert_eq!(result, expected);
}

#[test]
fn a_syntax_tree_is_written_as_the_expression_it_stands_for() {
    let method = select(ident("request"), "method", false);
    check_tree(call(None, "_==_", vec![method.clone(), text("G\"T\n")]), r#"(request.method == "G\"T\U0000000a")"#);
    let header = call(None, "_[_]", vec![select(ident("request"), "headers", false), text("x")]);
    let starts = call(Some(header), "startsWith", vec![text("a")]);
    let has = select(select(ident("request"), "headers", false), "y", true);
    check_tree(
        call(None, "_&&_", vec![call(None, "!_", vec![starts]), has]),
        r#"((!request.headers["x"].startsWith("a")) && has(request.headers.y))"#,
    );
}

#[test]
fn what_an_expression_cannot_ask_for_is_refused() {
    check_tree(select(ident("request"), "time", false), "request.time is not an attribute in weir-proxy");
    check_tree(ident("xds"), "\"xds\" is not an attribute in weir-proxy");
    check_tree(call(None, "now", vec![]), "the function \"now\" is not implemented by weir-proxy");
    let mut deep = ident("request");
    for _ in 0..40 {
        deep = call(None, "!_", vec![deep]);
    }
    check_tree(deep, "nested more than 32 deep");
}

#[test]
fn an_expression_is_also_read_from_text() {
    let parse = |text: &str| problems(|p| _ = Cel::parse(text, p));
    assert_eq!(parse("request.path.startsWith('/a') && source.port > 1"), "");
    assert_eq!(parse("connection['mtls']"), "connection is not an attribute in weir-proxy");
    assert!(parse("request.path ==").starts_with("not an expression"));
}

fn any() -> (pb::Permission, pb::Principal) {
    let permission = pb::Permission { rule: Some(pb::permission::Rule::Any(true)) };
    (permission, pb::Principal { identifier: Some(pb::principal::Identifier::Any(true)) })
}

fn rules(permission: pb::Permission, principal: pb::Principal) -> filter::Rbac {
    let policy = pb::Policy { permissions: vec![permission], principals: vec![principal], ..Default::default() };
    let rules = pb::Rbac { policies: [("p".to_owned(), policy)].into(), ..Default::default() };
    filter::Rbac { rules: Some(rules), ..Default::default() }
}

#[test]
fn policies_are_decoded() {
    let (permission, principal) = any();
    let config = Config::decode(&rules(permission, principal), &mut Problems::default()).unwrap();
    let Some(Engine::Policies { action: Action::Allow, policies }) = config.engine else { panic!() };
    assert_eq!(policies["p"].permissions, [Rule::Always]);
}

#[test]
fn what_is_wrong_is_refused_with_its_path() {
    let check = |proto: filter::Rbac, expected: &str| {
        assert_eq!(problems(|p| assert_eq!(Config::decode(&proto, p), None)), expected);
    };
    let (permission, principal) = any();
    let bad = pb::Permission { rule: Some(pb::permission::Rule::DestinationPort(70_000)) };
    check(rules(bad, principal.clone()), "rules.policies[p].permissions[0].destination_port: 70000 is not a port");
    let metadata = pb::Principal { identifier: Some(pb::principal::Identifier::Metadata(Default::default())) };
    check(
        rules(permission.clone(), metadata),
        "rules.policies[p].principals[0].metadata: not implemented by weir-proxy",
    );
    check(rules(pb::Permission::default(), principal.clone()), "rules.policies[p].permissions[0].rule: required");
    let mut nested = permission;
    for _ in 0..40 {
        nested = pb::Permission { rule: Some(pb::permission::Rule::NotRule(Box::new(nested))) };
    }
    let text = problems(|p| _ = Config::decode(&rules(nested, principal), p));
    assert!(text.ends_with("nested more than 32 deep"), "{text}");
}

#[test]
fn an_expression_as_text_is_only_so_long() {
    let expression = |length| CelExpression { cel_expr_string: "1".repeat(length), ..Default::default() };
    assert_eq!(problems(|p| _ = cel::decode_expression(&expression(9), p)), "");
    let refused = problems(|p| _ = cel::decode_expression(&expression(4097), p));
    assert_eq!(refused, "cel_expr_string: is longer than 4096 bytes");
}

/// As large as those of workers and of the runtime of the control plane.
const STACK: usize = 2 << 20;

#[test]
fn an_expression_is_only_so_deep_and_takes_only_so_long() {
    let check = |text: String, expected: &str| {
        let expression = CelExpression { cel_expr_string: text.clone(), ..Default::default() };
        let decode = move || problems(|p| _ = cel::decode_expression(&expression, p));
        let refused = std::thread::Builder::new().stack_size(STACK).spawn(decode).unwrap().join().unwrap();
        assert!(refused.contains(expected) && refused.is_empty() == expected.is_empty(), "{text}: {refused}");
    };
    for link in ["1+", "1==", "true?1:", "!(", "-(", "(", "[", "1 in [", "size(", "{1:"] {
        check(link.repeat(4095 / link.len()) + "1", "cel_expr_string: n");
    }
    for link in ["[1]", ".x", ".size()", "+1", "*1", "-1", "==1"] {
        check("request.path".to_owned() + &link.repeat(4084 / link.len()), "nested more than 100 deep");
    }
    check(format!("1{}", "+1".repeat(100)), "");
    // Of these the library makes balanced trees, or nothing.
    check("!".repeat(4091) + "true", "");
    check(format!("true{}", "||true".repeat(680)), "");
    check(format!("true{}", "&&true".repeat(680)), "");
    check("[1, 2].all(x, x > 0)".into(), "comprehensions are not implemented");
    check("'a' in {'b': [1].map(x, x)}".into(), "comprehensions are not implemented");
    check("has(request.headers.x) && request.path in {'/a': 1}".into(), "");
}

#[test]
fn a_matcher_takes_expressions_and_actions() {
    let extension = |any: Any| Some(TypedExtensionConfig { name: "x".into(), typed_config: Some(any) });
    let expression = CelExpression { cel_expr_string: "request.method == 'GET'".into(), ..Default::default() };
    let cel = xds::CelMatcher { expr_match: Some(expression), ..Default::default() };
    use xds::matcher::matcher_list::{self, predicate};
    let single = predicate::SinglePredicate {
        input: extension(Any::pack(&xds::HttpAttributesCelMatchInput {})),
        matcher: Some(predicate::single_predicate::Matcher::CustomMatch(extension(Any::pack(&cel)).unwrap())),
    };
    let action = Any::pack(&pb::Action { name: "get".into(), action: 1 });
    let on_match = xds::matcher::OnMatch {
        on_match: Some(xds::matcher::on_match::OnMatch::Action(extension(action).unwrap())),
        ..Default::default()
    };
    let field = matcher_list::FieldMatcher {
        predicate: Some(matcher_list::Predicate { match_type: Some(predicate::MatchType::SinglePredicate(single)) }),
        on_match: Some(on_match),
    };
    let list = xds::matcher::MatcherList { matchers: vec![field] };
    let matcher =
        xds::Matcher { matcher_type: Some(xds::matcher::MatcherType::MatcherList(list)), ..Default::default() };
    let mut p = Problems::default();
    let config = Config::decode(&filter::Rbac { matcher: Some(matcher), ..Default::default() }, &mut p);
    let Engine::Matcher(matcher) = p.finish(config).unwrap().engine.unwrap() else { panic!() };
    let Branches::List(list) = matcher.branches else { panic!() };
    assert!(
        matches!(&list[0], (Predicate::Single(Input::Attributes, Test::Cel(_)), OnMatch::Action { name, action: Action::Deny }) if name == "get")
    );
}
